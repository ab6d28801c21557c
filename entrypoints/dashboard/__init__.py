"""The dashboard: pages for people, rendered here and kept live by the event stream.

Routes of the API do not belong here, and a page changes nothing by itself: it calls the service or
a use case.
"""
