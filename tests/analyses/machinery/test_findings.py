from analyses.machinery.findings import in_words, over_seeds


def test_seconds_are_said_in_words():
    assert [in_words(seconds) for seconds in (40, 720, 12_240, 432_000)] == ["40 s", "12 min", "3.4 h", "5.0 days"]


def test_several_seeds_are_said_with_their_standard_deviation_and_one_without():
    assert over_seeds([1.0, 3.0], "+.1f") == "+2.0 ± 1.4"
    assert over_seeds([1.0], "+.1f") == "+1.0"
