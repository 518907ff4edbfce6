"""What the applications that draw share: which methods, into what folder, in which colours.

``contestants`` settles which methods are compared, ``theme`` how a picture looks on light and dark
pages, ``folder`` where the files go.
"""
