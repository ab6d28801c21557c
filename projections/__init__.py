"""Read models, each a pure fold with tables of its own. Disposable: drop them and replay."""
