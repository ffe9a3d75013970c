from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from semantic_net.config import CsvConfig
from semantic_net.errors import DataError
from semantic_net.task.netqos.csv_source import read_traces

CFG = CsvConfig(features=("rtt_ms", "sinr_db"), group=("net",))
HEADER = "net,trace_id,t_s,rtt_ms,sinr_db\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "link.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, cfg: CsvConfig = CFG) -> str:
    with pytest.raises(DataError) as caught:
        read_traces(path, cfg)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("zipped", [False, True])
def test_traces_come_in_the_order_in_which_they_begin(
    tmp_path: Path, zipped: bool, prefix: bytes
) -> None:
    rows = "n8,b,0,10,1\nn8,a,0,20,2\n\nn8,b,0.2,11,1.5\nn78,b,0,30,3\n"
    content = prefix + (HEADER + rows).encode()
    # What a file is shows in its first bytes, whatever its name ends in.
    traces = read_traces(written(tmp_path, gzip.compress(content) if zipped else content), CFG)
    assert [(t.name, t.group) for t in traces] == [("b", "n8"), ("a", "n8"), ("b", "n78")]
    assert traces[0].time_s.tolist() == [0, 0.2]
    assert traces[0].target.tolist() == [10, 11]
    assert traces[0].values.tolist() == [[10, 1], [11, 1.5]]


def test_without_group_columns_all_traces_are_of_one_group(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "n8,a,0,1,1\nn78,b,0,1,1\n")
    assert [t.group for t in read_traces(path, CsvConfig())] == ["", ""]


def test_missing_cells_drop_the_row_or_keep_the_last_value(tmp_path: Path) -> None:
    rows = [
        "n8,a,0,10,",  # before the feature's first value
        "n8,a,1,11,5",
        "n8,a,2,,6",  # no target, no sample; its feature is not kept either
        "n8,a,3,13,NaN",
        "n8,a,4,14, 7 ",
        "n8,b,0,n/a,1",  # a trace of which nothing is left
    ]
    a, b = read_traces(written(tmp_path, HEADER + "\n".join(rows)), CFG)
    assert a.time_s.tolist() == [1, 3, 4]
    assert a.values.tolist() == [[11, 5], [13, 5], [14, 7]]
    assert b.time_s.shape == (0,)
    assert b.values.shape == (0, 2)
    assert not np.isnan(a.target).any()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("n8,a,0.2,fast,1", ", line 3, column rtt_ms: not a finite number: 'fast'"),
        ("n8,a,0.2,1,inf", ", line 3, column sinr_db: not a finite number: 'inf'"),
        ("n8,a,,1,1", ", line 3, column t_s: empty; every row needs its time"),
        ("n8,a,-1,1,1", ", line 3, column t_s: goes back from 0 to -1 within a trace"),
        ("n8,a,0.2,1", ", line 3: 4 cells, but the header has 5"),
    ],
)
def test_a_bad_cell_is_named_by_file_line_and_column(
    tmp_path: Path, row: str, message: str
) -> None:
    path = written(tmp_path, HEADER + "n8,a,0,1,1\n" + row + "\n")
    assert refusal(path).startswith(message)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (CsvConfig(trace="id"), ": no column 'id' (data.csv.trace); the file has net, trace_id"),
        (CsvConfig(time="t"), ": no column 't' (data.csv.time)"),
        (CsvConfig(target="rtt"), ": no column 'rtt' (data.csv.target)"),
        (CsvConfig(features=("rtt_ms", "x")), ": no column 'x' (data.csv.features)"),
        (CsvConfig(group=("cell",)), ": no column 'cell' (data.csv.group)"),
    ],
)
def test_a_missing_column_is_named_with_its_key(
    tmp_path: Path, cfg: CsvConfig, message: str
) -> None:
    assert refusal(written(tmp_path, HEADER), cfg).startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.csv") == (": cannot be read as CSV: No such file or directory")
    assert "Is a directory" in refusal(tmp_path)
    whole = gzip.compress((HEADER + "n8,a,0,1,1\n" * 1000).encode())
    assert "cannot be read" in refusal(written(tmp_path, whole[: len(whole) // 2]))
    broken = whole[:30] + bytes(20) + whole[50:]
    assert "cannot be read" in refusal(written(tmp_path, broken))
    assert "utf-8" in refusal(written(tmp_path, HEADER.encode() + b"\xff\xfe,a,0,1,1\n"))
    assert "no column 'trace_id'" in refusal(written(tmp_path, ""))
