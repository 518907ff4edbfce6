"""A ready plugin, made from a template that can be brought up to date later.

``template/`` is what ``jd new`` writes: ``files/`` for every kind, and in ``kinds/`` the worked
example of each. :mod:`.library` keeps its releases in a git repository, as copier needs them to see
what has changed between two; :mod:`.plugin` writes and updates a plugin.
"""
