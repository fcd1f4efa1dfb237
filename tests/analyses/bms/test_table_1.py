"""BMS Table 1: what its page says of given records."""

from analyses.bms import mode_settings, table_1
from analyses.machinery.cells import results

CELLS = table_1.cells("quick")


def record(cell, modes, good):
    bracket = {"brackets": {"population": {"lower": [1.0, 0.1, "gmm"], "upper": [2.0, 0.1, "monte-carlo"]}}}
    return {"cell": cell, "result": {"modes": modes, "high_quality": good, "kl": bracket}, "cpu_seconds": 8.0}


def rows(name, dataset, values):
    cells = [cell for cell in CELLS if (cell["row"], cell["dataset"]) == (name, dataset)]
    return [record(cell, *value) for cell, value in zip(cells, values, strict=True)]


def test_a_row_is_the_mean_and_the_spread_of_its_seeds_beside_the_papers():
    lines = table_1.table(rows("wae", "ring", [(8, 0.1), (7, 0.2), (6, 0.3)]), "ring").splitlines()
    (line,) = (line for line in lines if line.startswith("| WAE"))
    assert "| 8 | 35.8 ± 4.7 | 7.0 ± 1.0 of 8 | 20.0 ± 10.0 | 1.00 to 2.00 | 3 | 2,000 | 8 |" in line
    assert any("MD-GAN (quoted) | 8 | 89.0 ± 3.6 |" in line for line in lines)


def test_the_goal_needs_all_modes_with_every_seed():
    good = [(8, 0.99), (8, 0.985), (8, 0.98)]
    assert "on the ring: reached (98.5 %)" in table_1.verdict(rows("bms-vae-gan", "ring", good))
    said = table_1.verdict(rows("bms-vae-gan", "ring", [*good[:2], (7, 0.98)]))
    assert "on the ring: not reached" in said
    assert "Not all 8 modes of the ring with every seed: BMS-VAE-GAN" in said


def test_orders_are_those_of_the_papers_values_and_of_ours():
    said = table_1.verdict(rows("sngan", "grid", [(25, 0.3)] * 3) + rows("aae-gan", "grid", [(25, 0.6)] * 3))
    assert "on the grid, the paper: alpha-GAN < SN-GAN." in said
    assert "on the grid, ours: SN-GAN < alpha-GAN." in said


def test_records_of_settings_that_were_given_up_are_left_out():
    old = CELLS[1] | {"model": CELLS[1]["model"] | {"steps": 7}}
    assert [kept["cell"] for _, kept in results(CELLS, [record(old, 1, 0.5), record(CELLS[1], 2, 0.5)])] == [CELLS[1]]


def test_the_papers_systems_come_before_the_others_and_every_cell_differs():
    assert len({str(cell) for cell in CELLS}) == len(CELLS) == 3 * 2 * (1 + len(mode_settings.SYSTEMS))
    assert {cell["row"] for cell in CELLS[: 2 * 3 * 6]} == {table_1.TRUE, *mode_settings.PRINTED}
