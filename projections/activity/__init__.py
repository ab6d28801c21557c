"""The asynchronous projection behind the dashboard: activity metrics by time bucket.

No other projection may depend on it.
"""
