import unittest

from durations import parse


class ParseTest(unittest.TestCase):
    def test_hours_and_minutes(self) -> None:
        self.assertEqual(parse("1h 30m"), 5400)

    def test_seconds_alone(self) -> None:
        self.assertEqual(parse("45s"), 45)

    def test_nonsense_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            parse("soon")
