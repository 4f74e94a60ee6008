"""How the pages of reports on drills look: light, dark, and on paper. No text is told by its colour alone."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{--bg:#fbfbfd;--card:#fff;--text:#1b1c20;--soft:#5a5f6a;--line:#dfe1e7;--ok:#157347;--okbg:#cfe9dc;--bad:#b3261e;
--warn:#9a5b00;--warnbg:#f4c77a;--accent:#3d5a99;--fault:#f3c3bf;--grid:#e6e8ee}
@media (prefers-color-scheme:dark){:root{--bg:#14161a;--card:#1d2026;--text:#eceef2;--soft:#a7adba;--line:#343944;
--ok:#6bd19c;--okbg:#1f5a3d;--bad:#ff8a80;--warn:#f0b35a;--warnbg:#8a5a12;--accent:#9db8f2;--fault:#6b2f2c;
--grid:#2a2e37}}
@media print{:root{--bg:#fff;--card:#fff;--text:#000;--soft:#444;--line:#bbb;--ok:#0b5a35;--okbg:#cfe9dc;
--bad:#9b1c15;
--warn:#7a4700;--warnbg:#f4c77a;--accent:#1f3c7a;--fault:#f3c3bf;--grid:#ddd}
body{font-size:10pt}section,tr,.cards li{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible!important}
main,footer{max-width:none!important;padding:0!important}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,footer{max-width:68rem;margin:0 auto;padding:2rem 1.25rem}footer{padding-top:0;color:var(--soft);
font-size:.85rem}
.kicker{margin:0;color:var(--soft);font-size:.8rem;letter-spacing:.08em;text-transform:uppercase}
h1{margin:.1rem 0 .2rem;font-size:2rem;line-height:1.2}h1 .run{color:var(--soft);font-weight:400}
h2{font-size:1.2rem;margin:0 0 .75rem}.subject{margin:0 0 1rem;color:var(--soft)}
.verdict{display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap;margin:0 0 1rem;padding:.7rem 1rem;
border-radius:.6rem;
background:var(--card);border:1px solid var(--line);border-left:.5rem solid var(--soft)}
.verdict strong{font-size:1.15rem}.verdict.passed{border-left-color:var(--ok)}
.verdict.passed strong,.met{color:var(--ok)}
.verdict.failed{border-left-color:var(--bad)}.verdict.failed strong,.missed{color:var(--bad)}
.verdict.aborted{border-left-color:var(--warn)}.verdict.aborted strong{color:var(--warn)}.met,.missed{font-weight:600;
white-space:nowrap}
.facts{display:flex;flex-wrap:wrap;gap:.4rem 2rem;margin:0 0 1.25rem}.facts dt{color:var(--soft);font-size:.8rem}
.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.cards{list-style:none;display:grid;grid-template-columns:repeat(auto-fit,minmax(12rem,1fr));gap:.75rem;margin:0;
padding:0}
.cards li{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.8rem 1rem;display:flex;
flex-direction:column}.cards span,.cards small{color:var(--soft);font-size:.85rem}.cards b{font-size:1.6rem;
line-height:1.25}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1.1rem 1.25rem;
margin-top:1.25rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92rem}table+table{margin-top:1rem}
caption{text-align:left;color:var(--soft);font-size:.85rem;padding-bottom:.35rem}
.scroll+.scroll{margin-top:1.1rem}th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;
border-bottom:1px solid var(--line)}thead th{color:var(--soft);font-weight:600;white-space:nowrap}
tbody th{font-weight:600}
tbody tr:last-child>*{border-bottom:0}.stage{white-space:nowrap}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.failures{margin:0;padding-left:1.2rem;color:var(--bad)}code{font:.85rem/1.4 ui-monospace,Consolas,monospace;
overflow-wrap:anywhere}.signature{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.25rem;margin:0}
.signature dt{color:var(--soft)}.signature dd{margin:0}@media (max-width:40rem){.signature{display:block}}
.timeline{display:block;width:100%;min-width:44rem;height:auto;font:12px system-ui,sans-serif}
.timeline text{fill:var(--text)}.timeline .head{font-weight:600;font-size:12.5px}.timeline .region{font-size:12.5px}
.timeline .title{fill:var(--soft);font-size:11px}
.timeline .tick{fill:var(--soft);font-size:11px}.timeline .label{font-size:11.5px}.timeline .grid{stroke:var(--grid)}
.timeline .fault{fill:var(--fault)}.timeline .stem{stroke:var(--soft);stroke-width:1.2}
.timeline .mark{stroke:var(--card);
stroke-width:1.5}.ok{fill:var(--okbg);background:var(--okbg)}.some{fill:var(--warnbg);background:var(--warnbg)}
.none{fill:url(#hatch);background:repeating-linear-gradient(45deg,var(--bad) 0 4px,var(--card) 4px 6px)}
.bad{fill:var(--bad)}.hatch{stroke:var(--card);stroke-width:3}
.m-fault{fill:#c4473d;background:#c4473d}.m-detected{fill:#c27803;background:#c27803}
.m-withdrawn{fill:#7c5cc4;background:#7c5cc4}.m-rerouted{fill:#2f8f5b;background:#2f8f5b}
.m-rolled-back{fill:#7c5cc4;background:#7c5cc4}.m-healed{fill:#2b7fc3;background:#2b7fc3}
.m-restored{fill:#2f8f5b;background:#2f8f5b}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;margin:.6rem 0 0;padding:0;color:var(--soft);
font-size:.85rem}.dot,.box{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;margin-right:.4rem}
.box{border-radius:2px}
.bar{fill:var(--accent)}.beyond{fill:var(--warn)}.wide{width:56%}
h1+.verdict{margin-top:.8rem}.bound{stroke:var(--bad);stroke-width:2;stroke-dasharray:5 4}
.below{font-weight:400;color:var(--soft);font-size:.85rem}a{color:var(--accent)}.summary{margin:0 0 1.1rem;
max-width:52rem;font-size:1.05rem}
"""
