"""What each subcommand of `spillway` does; heavy imports wait until one is run."""
