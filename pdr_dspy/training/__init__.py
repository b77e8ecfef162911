"""Operator-consistent training (arXiv 2510.01123) on TRL: a model learns on long traces and on PDR rounds alike."""
