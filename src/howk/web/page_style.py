"""The one style of the page of the routes: light and dark as the reader's system is, one column on a phone."""

STYLE = """
:root { --ink: #1c2024; --soft: #5b636d; --line: #d9dde2; --back: #ffffff; --raised: #f5f7f9; --link: #0b5cad;
  --get: #1b6e3c; --post: #0b5cad; --put: #8a5a00; --delete: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #a0a9b4; --line: #343b44; --back: #14171b;
  --raised: #1d2126; --link: #7cb7ff; --get: #6fd39a; --post: #7cb7ff; --put: #f0bd5e; --delete: #ff8a80; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0 auto; max-width: 78rem; padding: 0 1.25rem 4rem; color: var(--ink); background: var(--back);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
main:focus { outline: none; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; padding: .5rem 1rem; background: var(--back); z-index: 1; }
header { padding: 1.75rem 0 1rem; border-bottom: 1px solid var(--line); }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; }
header p { margin: .4rem 0 0; color: var(--soft); }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.35rem; }
h3 { margin: 0; font-size: 1.05rem; line-height: 1.5; overflow-wrap: anywhere; }
h3 a { color: inherit; text-decoration: none; }
h3 a:hover { text-decoration: underline; }
h4 { margin: 1.4rem 0 .4rem; font-size: .95rem; }
small { color: var(--soft); font-weight: normal; font-size: .875rem; }
p { margin: .5rem 0; max-width: 46rem; }
code, pre { font-size: .875em;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
td code, p code { overflow-wrap: anywhere; }
article { margin: 1rem 0; padding: 1.1rem 1.25rem; border: 1px solid var(--line); border-radius: 8px; }
article:target { border-color: var(--link); }
pre { margin: .5rem 0; padding: .8rem 1rem; overflow-x: auto; background: var(--raised); border-radius: 6px;
  line-height: 1.45; }
.method { display: inline-block; min-width: 3.2em; font-size: .8em; letter-spacing: .03em; color: var(--soft); }
.get { color: var(--get); }
.post { color: var(--post); }
.put, .patch { color: var(--put); }
.delete { color: var(--delete); }
.path { font-size: 1em; }
.key { margin-left: .35rem; padding: .05rem .5rem; border: 1px solid var(--line); border-radius: 1rem;
  font-size: .75rem; font-weight: normal; color: var(--soft); }
table { width: 100%; margin: .5rem 0; border-collapse: collapse; font-size: .925rem; }
th, td { padding: .4rem .75rem .4rem 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
th { border-top: 0; color: var(--soft); font-weight: 600; font-size: .825rem; }
details summary { cursor: pointer; margin: 1rem 0 .25rem; color: var(--soft); }
details summary b { font-weight: 600; }
nav { font-size: .9rem; }
nav h2, nav summary { margin: 1.1rem 0 .3rem; font-size: .8rem; font-weight: 700; text-transform: uppercase;
  letter-spacing: .06em; color: var(--soft); }
nav ul { list-style: none; margin: 0; padding: 0; }
nav li a { display: block; padding: .22rem 0; color: var(--ink); text-decoration: none; overflow-wrap: anywhere; }
nav li a:hover { text-decoration: underline; }
@media (min-width: 60rem) {
  .columns { display: grid; grid-template-columns: 19rem minmax(0, 1fr); gap: 2.5rem; }
  nav { position: sticky; top: 0; align-self: start; max-height: 100vh; overflow-y: auto; padding: .5rem .5rem 2rem 0; }
  nav li a { display: flex; gap: .25rem; align-items: baseline; }
  td .name { white-space: nowrap; }
  nav .method { flex: none; }
}
@media (max-width: 40rem) {
  body { padding: 0 .9rem 3rem; }
  article { padding: .9rem; }
  nav li a { padding: .45rem 0; }
  thead { position: absolute; left: -999rem; }
  tr { display: block; padding: .5rem 0; border-top: 1px solid var(--line); }
  td { display: block; padding: .1rem 0; border: 0; }
  td:empty { display: none; }
}
@media print { nav, .skip { display: none; } article { break-inside: avoid; } }
"""
