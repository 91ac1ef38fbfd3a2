"""Everything around training: experiments, their command line, checkpoints and results."""
