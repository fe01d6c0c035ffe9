"""The report's style sheet: plain, light and dark, fit for paper."""

CSS = """
:root { color-scheme: light dark; --ink: #222; --ground: #fff; --soft: #f3f4f6;
  --line: #d8d8d8; --quiet: #5b6068; --accent: #0072b2; --alarm: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --ground: #1b1d21; --soft: #26292e; --line: #3c4047;
    --quiet: #a6abb3; --accent: #56b4e9; --alarm: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem;
  font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  color: var(--ink); background: var(--ground); }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
p, ul, dl { max-width: 46rem; }
p { margin: .5rem 0; }
a { color: var(--accent); }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap;
  gap: .2rem 1.2rem; max-width: none; }
code, pre { font: .86em/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .7rem .9rem; border-radius: 6px;
  white-space: pre-wrap; }
.quiet { color: var(--quiet); }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; min-width: 100%; }
caption { text-align: left; color: var(--quiet); padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--line); }
tbody th { font-weight: 600; white-space: nowrap; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { display: block; color: var(--quiet); }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; display: block; border-radius: 6px;
  border: 1px solid var(--line); background: #fff; }
figcaption { color: var(--quiet); font-size: .88rem; margin-top: .4rem;
  max-width: 46rem; }
.alarm { border-left: 4px solid var(--alarm); background: var(--soft);
  padding: .5rem 1rem; margin: .8rem 0; border-radius: 0 6px 6px 0; }
.alarm strong { color: var(--alarm); }
.alarm h3 { margin: .2rem 0; }
.alarm ul { margin: .3rem 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem;
  font-size: .92rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .wide { overflow: visible; }
  table { font-size: 8pt; }
  .numbers td, tbody th { white-space: normal; }
  h2, h3, caption { break-after: avoid; }
  figure, tr, .alarm { break-inside: avoid; }
}
"""
