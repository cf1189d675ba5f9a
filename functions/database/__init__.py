"""The history's database: tables, migrations, writing and reading. SQLite or PostgreSQL."""
