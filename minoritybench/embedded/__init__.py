"""The embedded digits benchmark: data, tiny encoders, a tiny DDPM, a classifier, and the code that trains them.

Everything here runs offline on one CPU thread. The shipped weights lie in ``weights/`` together with
``CARD.md`` (how each was made and what was measured) and can be rebuilt with
``python -m minoritybench.embedded.train``.
"""
