"""From what people submit together to the members of a batch: folders, archives, manifests, lists, URLs.

Everything is read once, as a stream, and nothing is kept of a member that was handed on. Nothing is believed: no
size, name or count that an archive states. What is read is counted, and the count is bounded (bounds.py). No
decoder is needed here; what a file is worth, planning finds out.
"""
