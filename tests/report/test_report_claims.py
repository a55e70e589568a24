"""The paper's tables as data, and the verdicts on its statements."""

import pytest
from report_mocks import shapes_run

from armor_eval.report.claims import load_claims, normal_name, parse_row_choices, row_of_model
from armor_eval.report.prose import added_parameter_count, judge_statements, load_statements
from armor_model.base.errors import UserError


def test_every_row_of_the_paper_is_there() -> None:
    claims = load_claims()
    assert [len(t.rows) for t in claims.tables] == [23, 19, 4, 1]
    assert [len(t.columns) for t in claims.tables] == [9, 1, 1, 1]
    dashes = sum(v is None for t in claims.tables for r in t.rows for v in r.printed.values())
    assert dashes == 39


@pytest.mark.parametrize(
    ("table", "row", "column", "printed"),
    [
        ("table2", "armor-internvl2-5", "POPE", "87.7"),
        ("table2", "tokenflow-xl-qwen", "POPE", "87.8"),
        ("table2", "internvl-2-5", "MME", "2338.9"),
        ("table2", "deepseek-vl2", "POPE", None),
        ("table2", "chameleon", "MME_P", "153.1"),
        ("table3", "armor", "score", "0.37"),
        ("table3", "janus-pro-7b", "score", "0.80"),
        ("table4", "one-stage-with-embedding-20", "und", "0.48"),
        ("table5", "stage-1", "und", "0.72"),
    ],
)
def test_spot_values(table: str, row: str, column: str, printed: str | None) -> None:
    assert load_claims().table(table).row(row).printed[column] == printed


def test_printed_values_have_the_declared_decimals_and_columns_say_what_is_comparable() -> None:
    for table in load_claims().tables:
        for column in table.columns:
            assert column.note
            for row in table.rows:
                printed = row.printed[column.key]
                if printed is not None:
                    assert len(printed.partition(".")[2]) == column.decimals, (table.key, row.key, column.key)
                    assert column.bounds[0] <= float(printed) <= (column.bounds[1] or 1e9)


def test_table_three_keeps_cost_and_resolution() -> None:
    armor = load_claims().table("table3").row("armor")
    assert armor.facts == {"train_images": "5M", "train_cost_gpu_days": "160/H100", "resolution": "256"}


def test_models_find_their_row_by_alias_and_by_choice() -> None:
    table = load_claims().table("table2")
    assert row_of_model(table, ["OpenGVLab/InternVL2_5-8B@abc"]).key == "internvl-2-5"
    assert row_of_model(table, ["vlmeval:Qwen2-VL-7B-Instruct"]).key == "qwen2-vl"
    assert row_of_model(table, ["armor-nano"]) is None
    assert row_of_model(table, ["InternVL2_5-1B"]) is None
    chosen = parse_row_choices(["mine=internvl-2-5"], load_claims())
    assert row_of_model(table, ["mine"], chosen).key == "internvl-2-5"
    assert normal_name("a/B-c_1@r") == "bc1"


def test_an_unknown_row_name_is_one_line_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean internvl-2-5"):
        parse_row_choices(["m=internvl25"], load_claims())
    with pytest.raises(UserError, match="MODEL=ROW"):
        parse_row_choices(["nothing"], load_claims())


def test_added_parameters_by_number() -> None:
    """DESIGN: a block of InternVL2.5-8B is 218.1 M, three blocks with embeddings and visual head 721.5 M."""
    assert added_parameter_count(1) - added_parameter_count(0) == 218_112_000
    assert round(added_parameter_count(3) / 1e6, 1) == 721.5


VERDICTS = {
    "best-on-all-nine": "contradicted",
    "smaller-than-what-it-beats": "contradicted",
    "mmb-margin": "supported",
    "keeps-95-percent": "supported",
    "geneval-comparable": "supported",
    "lowest-training-cost": "supported",
    "point-seven-billion": "supported",
    "seven-percent": "contradicted",
    "stage-one-keeps-understanding": "contradicted",
    "ldm-resolution": "contradicted",
}


def test_statements_that_arithmetic_decides() -> None:
    judged = {j.key: j for j in judge_statements()}
    assert {k: judged[k].verdict for k in VERDICTS} == VERDICTS
    assert "TokenFlow-XL-Qwen 87.8 against 87.7" in judged["best-on-all-nine"].evidence
    assert "95.3 %" in judged["keeps-95-percent"].evidence
    assert "8.9 %" in judged["seven-percent"].evidence
    rest = {j.key for j in judged.values() if j.key not in VERDICTS}
    assert rest == {s.key for s in load_statements().claims if s.rule == "measured"}
    assert all(judged[k].verdict == "not run" for k in rest)


def test_statements_that_need_a_run_take_its_finding() -> None:
    found = {"faster-convergence": {"verdict": "contradicted", "evidence": "area under the curve equal"}}
    run = shapes_run("abl", "ablate-heads", "ablate-heads", extras={"claims": found})
    judged = [j for j in judge_statements([run]) if j.key == "faster-convergence"]
    assert [(j.verdict, j.scope, j.run_id) for j in judged] == [("contradicted", "shapes profile, armor-nano", "abl")]
