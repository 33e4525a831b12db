"""What an evaluation found, for people and for programs."""


class Report(str):
    """A text for people, with the same as data beside it.

    Attributes:
      data: dictionaries, lists, numbers and arrays.
    """

    data: dict

    def __new__(cls, text, data):
        report = super().__new__(cls, text)
        report.data = data
        return report
