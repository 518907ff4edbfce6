"""``jd demo``: several methods train one small network on two overlapping handwritten digits.

Needs scikit-learn (the scans), matplotlib and jinja2 (the report): ``jdframework[demo]``.
"""
