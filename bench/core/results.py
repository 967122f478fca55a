"""What was measured, and why the rest was not; the tables that are printed."""

import statistics
from dataclasses import dataclass, field

REASON_SHOWN_MAX = 80


@dataclass(frozen=True)
class Section:
    """One table: a row for each metric, a column for each target."""

    name: str
    title: str
    columns: tuple
    rows: tuple
    note: str
    # Column to {row: text} where the text is known before anything is measured.
    fixed: dict = field(default_factory=dict)


class Results:
    """Values by section, row and column; one value a round."""

    def __init__(self, sections):
        self.sections = sections
        self.values, self.reasons, self.facts, self.machine = {}, {}, {}, []

    def add(self, section, column, values):
        """`values`: row to number."""
        for row, value in values.items():
            self.values.setdefault((section, row, column), []).append(value)

    def skip(self, section, column, rows, reason, failed=False):
        """Nothing was measured, and why; kept beside what other rounds measured."""
        text = f"{'failed' if failed else 'not run'}: {str(reason).strip()}"
        for row in rows:
            self.reasons.setdefault((section, row, column), text)

    def cell(self, section, row, column):
        """Median and range, or the reason, or a dash where the row does not apply."""
        values = self.values.get((section, row, column))
        reason = self.reasons.get((section, row, column))
        if values:
            low, middle, high = min(values), statistics.median(values), max(values)
            text = number(middle)
            return f"{text} ({number(low)}–{number(high)})" if len(values) > 1 else text
        if reason:
            return reason.splitlines()[0][:REASON_SHOWN_MAX].replace("|", "/")
        return "–"

    def median(self, section, row, column):
        """The median of the rounds, or None."""
        values = self.values.get((section, row, column))
        return statistics.median(values) if values else None

    def markdown(self, names):
        """The tables of the sections in `names`."""
        lines = ["Median (lowest–highest) of the rounds.", ""]
        lines += [f"- {name}: {value}" for name, value in {**self.facts, **self.minutes()}.items()]
        for section in self.sections:
            if section.name not in names:
                continue
            # Without rows of its own a section has them as they come.
            known = {**self.values, **self.reasons}
            rows = section.rows or [row for name, row, _ in known if name == section.name]
            lines += ["", f"### {section.title}", "", section.note, ""]
            lines.append("| | " + " | ".join(section.columns) + " |")
            lines.append("|---" * (len(section.columns) + 1) + "|")
            for row in rows:
                cells = [
                    section.fixed[column].get(row, "–")
                    if column in section.fixed
                    else self.cell(section.name, row, column)
                    for column in section.columns
                ]
                lines.append(f"| {row} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    def minutes(self):
        """The machine during the rounds, in words."""
        if not self.machine:
            return {}
        syncs = [look["fdatasync_64k_p50_ms"] for look in self.machine]
        loads = [look["load"] for look in self.machine]
        first, last = self.machine[0], self.machine[-1]
        ticks = max(1, last["ticks"] - first["ticks"])
        return {
            "fdatasync after 64 KiB, p50": f"{number(statistics.median(syncs))} ms "
            f"({number(min(syncs))}–{number(max(syncs))})",
            "load while it ran": f"{number(min(loads))}–{number(max(loads))}",
            "CPU time stolen": f"{(last['stolen_ticks'] - first['stolen_ticks']) / ticks:.1%}",
        }

    def document(self):
        """Everything, for the JSON."""
        return {
            "facts": self.facts,
            "machine": self.machine,
            "values": [
                {"section": s, "row": r, "column": c, "median": statistics.median(v), "rounds": v}
                for (s, r, c), v in self.values.items()
            ],
            "not_measured": [
                {"section": s, "row": r, "column": c, "reason": reason}
                for (s, r, c), reason in self.reasons.items()
            ],
        }


def number(value):
    """Three significant digits, and thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
