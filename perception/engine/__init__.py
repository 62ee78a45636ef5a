"""What every run shares: runner, loops, sampler, optimiser wrapper, hooks, and the model of pre-training."""
