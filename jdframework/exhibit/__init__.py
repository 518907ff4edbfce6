"""What the commands that draw share: which methods, with what packages, in which colours."""
