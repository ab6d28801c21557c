"""The directive `not-run`: a block of code that the tests do not run, with the reason."""

from typing import Any, ClassVar

from sphinx.directives.code import CodeBlock


class NotRun(CodeBlock):
    """A block of code whose option `reason` is shown above it."""

    option_spec: ClassVar[Any] = {**CodeBlock.option_spec, "reason": str}

    def run(self) -> list[Any]:
        if not self.options.get("reason"):
            raise self.error("not-run needs a reason.")
        self.options["caption"] = f"Not run by the tests: {self.options['reason']}"
        self.options["class"] = ["not-run"]
        return super().run()
