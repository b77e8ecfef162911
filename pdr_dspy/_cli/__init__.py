"""What the commands of `pdr` are made of. Nothing here is public."""
