"""How the page about a store looks: one column on a phone, light or dark as the reader's system is."""

STYLE = """
:root { --paper: #fff; --ink: #1e1e1e; --quiet: #666; --rule: #ddd; --card: #f6f6f5; --warn: #b34700;
  --s0: #0072b2; --s1: #c98500; --s2: #009e73; --s3: #b65a92; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e6e6e4; --quiet: #a0a3a6; --rule: #3a3d41; --card: #202327; --warn: #ff9a57;
    --s0: #5fb3e6; --s1: #f0b840; --s2: #3fcca0; --s3: #e39ac4; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
h1 { margin: 0 0 .3rem; font-size: 1.6rem; line-height: 1.2; }
h2 { margin: 2.4rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--rule); font-size: 1.2rem; }
h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
p { margin: .4rem 0; max-width: 46rem; }
.quiet, figcaption, caption { color: var(--quiet); }
.warn { color: var(--warn); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; margin: 1rem 0; }
.tiles div { padding: .6rem .7rem; background: var(--card); border-radius: .4rem; }
.tiles dt { color: var(--quiet); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
thead th { color: var(--quiet); font-weight: 400; vertical-align: bottom; }
th:first-child { text-align: left; white-space: normal; min-width: 7.5rem; max-width: 24rem; overflow-wrap: anywhere; }
@media (max-width: 30rem) { table { font-size: .82rem; } th, td { padding-right: .5rem; } }
.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.words th { font-weight: 400; color: var(--quiet); }
.bar { display: block; width: min(16rem, 28vw); height: .7rem; }
.chart { display: block; margin: .6rem 0; width: 100%; max-width: 36rem; height: auto;
  font: 12px system-ui, sans-serif; }
.chart text { fill: var(--quiet); }
.chart .axis { stroke: var(--rule); stroke-width: 1; fill: none; }
.s0 { --own: var(--s0); } .s1 { --own: var(--s1); } .s2 { --own: var(--s2); } .s3 { --own: var(--s3); }
.area { fill: var(--own); fill-opacity: .22; stroke: var(--own); stroke-width: 1.5; stroke-linejoin: round; }
.full, .key rect { fill: var(--own); }
.line { stroke: var(--own); stroke-width: 1.2; fill: none; }
.thick { stroke: var(--own); stroke-width: 5; }
.dash { stroke: var(--own); stroke-width: 1.2; stroke-dasharray: 4 3; }
.dot { fill: var(--paper); stroke: var(--own); stroke-width: 2; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; vertical-align: -.05rem; }
.sample { margin: 1rem 0 1.6rem; }
.sample p { margin: .1rem 0; font-size: .92rem; }
.panels { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; margin: .5rem 0 0; }
@media (min-width: 44rem) { .tiles, .panels { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
.panels figure { margin: 0; }
.panels img { display: block; width: 100%; height: auto; max-height: 18rem; object-fit: contain;
  object-position: left top; image-rendering: pixelated; }
.panels.smooth img { image-rendering: auto; }
.scale { display: block; width: 12rem; height: auto; font: 12px system-ui, sans-serif; }
.scale text { fill: var(--quiet); }
figcaption { font-size: .85rem; }
pre, code { font: .88rem/1.5 ui-monospace, monospace; }
pre { margin: .4rem 0; padding: .6rem .8rem; background: var(--card); border-radius: .4rem; overflow-x: auto;
  white-space: pre-wrap; }
details { margin: .8rem 0; }
summary { cursor: pointer; }
"""
