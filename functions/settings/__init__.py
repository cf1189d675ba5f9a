"""Settings from the environment, and the rule tables in them."""
