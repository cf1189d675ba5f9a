"""`ocf`, the command line. Each verb imports its modules when it runs, so that `ocf --help` is fast."""
