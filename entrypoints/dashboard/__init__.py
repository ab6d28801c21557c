"""The dashboard: pages for people, rendered here and kept live by the event stream."""
