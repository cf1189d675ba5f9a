import unittest

from durations import humanize, parse


class HumanizeTest(unittest.TestCase):
    def test_zero(self) -> None:
        self.assertEqual(humanize(0), "0s")

    def test_minutes_and_seconds(self) -> None:
        self.assertEqual(humanize(125), "2m 5s")

    def test_an_hour_and_a_bit(self) -> None:
        self.assertEqual(humanize(3725), "1h 2m 5s")

    def test_round_trip(self) -> None:
        for text in ("59m 59s", "45m", "1s"):
            self.assertEqual(humanize(parse(text)), text)
