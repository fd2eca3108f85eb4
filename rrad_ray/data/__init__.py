"""Other people's files in and out: collections, runs, candidates, click logs, exports; and BM25 over a collection.

Imports the vocabulary, `tables` and `config`.
"""
