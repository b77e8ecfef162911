"""Programs to copy, one task in each file. Each has

data(split, *, limit, seed) -> list[dspy.Example]    train, dev and test, without common questions
verifier() -> Verifier                               grades an answer against its gold
build() -> Operator                                  the program, with a schedule to start from

as `pdr eval programs/gsm8k.py` and `pdr optimize gsm8k` require. A file needs none of the others, so that a copy of it
works. The wheel has them as `pdr_dspy._programs`: `pdr eval gsm8k` works without a checkout.
"""
