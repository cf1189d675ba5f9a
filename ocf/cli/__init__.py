"""`ocf`, the command line. Each verb imports what it needs when it runs, so that `ocf --help` is quick."""
