"""The arithmetic, one folder an op: `naive.py` is the readable truth, `op.py` the fast form with its own backward.

Letters in shape comments: T tokens, S segments, L tokens of one segment, D model, H query heads, G key/value heads,
K head size, F feed-forward, V vocabulary, R rank, N and M output and input features of a linear.
"""
