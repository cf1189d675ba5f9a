"""What is done: the functions, the gateway, the dispatcher, the command line and the embedded stack."""
