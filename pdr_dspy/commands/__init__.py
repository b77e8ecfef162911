"""What the commands of `pdr`, and the studies of `optimize/`, are made of."""
