"""The projection behind the dashboard's figures: what each user did, by slot of time.

It follows the log; nothing else may depend on it.
"""
