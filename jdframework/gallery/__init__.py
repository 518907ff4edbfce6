"""``jd gallery``: the path that each method takes on two small problems, drawn.

Needs matplotlib and jinja2: ``jdframework[demo]``.
"""
