"""The boundary around an agent: users, namespaces, limits, supervisor."""
