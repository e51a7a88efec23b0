"""How a stream, a profile or a call is refused: the kinds of format.md, section 7, and the rule that was broken."""


class Refused(Exception):
    """`kind` is one of format.md's, `rule` says which rule, with what was found."""

    def __init__(self, kind, rule=""):
        super().__init__(f"{kind}: {rule}" if rule else kind)
        self.kind, self.rule = kind, rule


def expect(holds, rule, found, kind="malformed"):
    """The rule, or an error that names it and what was found instead."""
    if not holds:
        raise Refused(kind, f"{rule}, found {found}")
