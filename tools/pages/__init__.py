"""The pages of the site that are made of something else than Markdown, one module for each.

Each module has ``pages()``, which gives the Markdown by its path below ``docs``.
"""
