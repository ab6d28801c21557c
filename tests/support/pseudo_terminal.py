"""What a program shows on a terminal, read while it runs: one that nobody reads makes it wait."""

import codecs
import os
import re
import select


class PseudoTerminal:
    """The reading end of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character
        self.text = ""

    def shows(self, text: str) -> bool:
        """Return True if the text has been shown."""
        self.read()
        return text in self.text

    def read(self) -> None:
        """Read all that has been shown since the last time."""
        while select.select([self._descriptor], [], [], 0.05)[0]:
            try:
                self.text += self._decoder.decode(os.read(self._descriptor, 65_536))
            except OSError:  # nobody has the other end any more
                break

    def row(self, name: str) -> str:
        """Return what is shown behind a name."""
        found = re.search(rf"^  {name} +(.+?)\r?$", self.text, re.MULTILINE)
        assert found is not None, self.text
        return found[1]
