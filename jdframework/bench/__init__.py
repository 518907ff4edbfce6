"""What a step costs on this machine, against an ordinary one: ``jd bench``, and ``benchmarks/``."""
