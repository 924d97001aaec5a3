"""The report's style sheet. Colours after Okabe and Ito (2008), told apart by the colour-blind; dark by preference."""

from __future__ import annotations

STYLE = """
:root{--bg:#f5f6f8;--card:#fff;--ink:#14181f;--soft:#5b6472;--line:#dfe3e9;--grid:#eceff3;--accent:#0b62c4;
--ok:#00875f;--warn:#d98b00;--bad:#c8430a;--stop:#8e1457;--okbg:#e3f4ee;--warnbg:#fdf1d8;--badbg:#fbe6dc;--hatch:#c8430a;
--on:#fff}
@media(prefers-color-scheme:dark){:root{--bg:#0e1116;--card:#171b22;--ink:#e9edf3;--soft:#98a2b1;--line:#2a303a;
--grid:#212731;--accent:#5aa7ff;--ok:#25b88a;--warn:#f0ad2e;--bad:#ff7a45;--stop:#e05aa4;--okbg:#10291f;--warnbg:#2e2410;
--badbg:#331b10;--hatch:#ff7a45;--on:#0e1116}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1200px;margin:0 auto;padding:28px 24px 56px}
.brand{margin:0 0 12px;color:var(--soft)}.brand b{color:var(--ink);letter-spacing:.01em;margin-right:.6em}
.hero{display:flex;gap:20px;align-items:center;padding:22px 26px;border-radius:14px;border:1px solid var(--line)}
.hero h1{margin:0;font-size:clamp(24px,3.6vw,38px);line-height:1.15;letter-spacing:-.02em;font-weight:700}
.hero p{margin:6px 0 0;color:var(--soft);font-size:16px}
.hero.good{background:var(--okbg)}.hero.warn{background:var(--warnbg)}.hero.bad{background:var(--badbg)}
.mark{flex:none;width:54px;height:54px;border-radius:50%;display:grid;place-items:center;color:var(--on);font-size:30px;
font-weight:700}
.good .mark{background:var(--ok)}.good .mark::before{content:"✓"}
.warn .mark{background:var(--warn)}.warn .mark::before{content:"!"}
.bad .mark{background:var(--bad)}.bad .mark::before{content:"✗"}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:14px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.tile dt{color:var(--soft);font-size:12.5px}.tile dd{margin:2px 0 0;font-size:20px;font-weight:650;white-space:nowrap}
.v-pass dd{color:var(--ok)}.v-degrade dd{color:var(--warn)}.v-hold dd{color:var(--bad)}.v-stop dd{color:var(--stop)}
.ribbon{display:flex;height:22px;border-radius:6px;overflow:hidden;gap:2px}
.ribbon i{font:600 11.5px/22px system-ui,sans-serif;color:var(--on);padding:0 8px;overflow:hidden;white-space:nowrap;
min-width:3px}
section{margin-top:30px;min-width:0}
h2{font-size:19px;margin:0 0 4px;letter-spacing:-.01em}
.lead{margin:0 0 10px;color:var(--soft);font-size:13.5px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,500px),1fr));gap:0 20px;align-items:start}
.scroll{overflow-x:auto}
.wide svg{min-width:720px}
svg{display:block;width:100%;height:auto}
.t{font:12px system-ui,sans-serif;fill:var(--soft)}.t.strong{fill:var(--ink);font-weight:650}
.t.small{font-size:10.5px}.t.inbar{fill:var(--on);font-size:10.5px;font-weight:650}
.t.attack{fill:var(--bad);font-weight:650;font-size:11.5px}
.grid{stroke:var(--grid)}.base{stroke:var(--line)}
.band{fill:var(--hatch);fill-opacity:.09}.band.own{fill-opacity:.2}.bandtop{fill:var(--hatch)}
.s-pass,.s-trusted{fill:var(--ok)}.s-degrade,.s-suspect{fill:var(--warn)}.s-hold,.s-rejected{fill:var(--bad)}
.s-stop{fill:var(--stop)}.s-{fill:none}
.b-pass,.b-trusted{background:var(--ok)}.b-degrade,.b-suspect{background:var(--warn)}
.b-hold,.b-rejected{background:var(--bad)}.b-stop{background:var(--stop)}
.marker{fill:var(--ink);stroke:var(--card);stroke-width:1.5}
.path,.casing{fill:none;stroke:var(--accent);stroke-width:3;stroke-linejoin:round;stroke-linecap:round}
.casing{stroke:var(--card);stroke-width:6}
.fix{fill:var(--soft);fill-opacity:.55}.fix.bad{fill:var(--bad);fill-opacity:.85}
.start{fill:var(--card);stroke:var(--accent);stroke-width:3}.end{fill:var(--accent);stroke:var(--card);stroke-width:2}
.inset{fill:var(--card);stroke:var(--line)}
.bar{stroke:var(--ink);stroke-width:1.6}
.above{fill:var(--bad);fill-opacity:.05}.limit{stroke:var(--bad);stroke-width:1;stroke-dasharray:4 3}
.curve{fill:none;stroke:var(--accent);stroke-width:1.5;stroke-linejoin:round}.curve.hot{stroke:var(--bad);stroke-width:2.2}
.blind{fill:var(--soft);fill-opacity:.45}
.key{display:flex;flex-wrap:wrap;gap:6px 18px;margin:8px 0 0 84px;color:var(--soft);font-size:12px}
.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}
.key span:nth-child(5){margin-left:14px}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:500;font-size:12.5px;padding:4px 10px 6px 0;
border-bottom:1px solid var(--line)}
td{padding:8px 10px 8px 0;border-bottom:1px solid var(--grid);vertical-align:top}
tr:last-child td{border-bottom:0}th.n,td.n{text-align:right;white-space:nowrap}
td small,figcaption small{display:block;color:var(--soft);font-size:12px}
.yes{color:var(--ok);font-weight:650;white-space:nowrap}.no{color:var(--bad);font-weight:650}
.pill{display:inline-block;border-radius:5px;padding:1px 8px;font-size:11.5px;font-weight:650;color:var(--on)}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden}
figure img{display:block;width:100%;height:auto}figcaption{padding:10px 14px}figcaption .pill{margin-left:10px}
.multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:14px}
.mini{padding:10px 12px 6px}.mini p{display:flex;gap:8px;margin:0 0 4px;align-items:baseline;font-size:13.5px}
.mini span{color:var(--soft);font-size:12px;flex:1;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.mini em{font-style:normal;font-weight:650;color:var(--soft)}
.mini em.no{color:var(--bad)}
details{margin-top:14px}summary{cursor:pointer;color:var(--soft);margin-bottom:12px}
footer{margin-top:34px;border-top:1px solid var(--line);padding-top:14px;color:var(--soft);font-size:13.5px}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:0 0 10px}
.facts dt{color:var(--soft)}.facts dd{margin:0;color:var(--ink);overflow-wrap:anywhere}
@media print{:root{--bg:#fff}main{max-width:none;padding:0}section,figure,.mini{break-inside:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
@media(max-width:640px){main{padding:16px 14px}.key{margin-left:0}}
""".replace("\n", "")
