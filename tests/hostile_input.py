"""Words that a terminal or a page would obey, and a name made of such."""

# What a terminal obeys, what a page obeys, what hides or turns text round, and what rich or Markdown would read.
TOKENS = (
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "<img/src=x/onerror=window.owned=1>",
    "</script><script>window.owned=1</script>",
    "<a/href='https://example.org'>click</a>",
    "<b>bold</b>",
    "\u202egnp.exe",
    "in\u200bvis\u2060ible",
    "[red]loud[/red]",
    "[link=https://example.org]here[/link]",
    "![x](https://example.org/x.png)",
    "$$\\frac{1}{0}$$",
    ":material/skull:",
    "{{7*7}}",
    "%{customdata[0]}",
    "=HYPERLINK(1)",
    "\x00\x08\x7f",
)
NAME = "evil \x1b[31m<img src=x onerror=window.owned=1> \u202e[red]"
HIDDEN = set("\x00\x07\x08\x1b\x7f\x9b\u202e\u200b\u2060")
