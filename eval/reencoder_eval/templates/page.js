// The page around the players: modes, loudness, keyboard, results, and sorting of tables by click.
const players = [...document.querySelectorAll("article")].map((article) => new Player(article));
results.restore();

for (const player of players) {
  const { article } = player;
  const modes = [...article.querySelectorAll(".modes button")];
  player.tests = modes.length ? { abx: new AbxTest(player), rating: new RatingTest(player) } : {};
  for (const button of modes) {
    button.addEventListener("click", () => {
      player.take();
      article.dataset.mode = button.value;
      for (const other of modes) other.setAttribute("aria-pressed", String(other === button));
      if (player.blind) player.tests[button.value].enter();
      else player.choose(0);
    });
  }
}

const match = document.querySelector(".match");
match?.addEventListener("click", () => {
  matched = !matched;
  match.setAttribute("aria-pressed", String(matched));
  for (const player of players) player.fade();
});

for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", () => results.download(button.value));
}
document.querySelector(".clear")?.addEventListener("click", () => {
  if (!confirm("Delete all answers and ratings of this page?")) return;
  results.clear();
  for (const { tests } of players) tests.abx?.end();
});

document.addEventListener("keydown", (event) => {
  const player = current || players[0];
  if (!player || event.ctrlKey || event.metaKey || event.altKey) return;
  const control = event.target instanceof Element && event.target.closest("button, input, select, a");
  if (control && (!control.closest("article") || control.matches("select, .rater input"))) return; // keys of its own
  const name = event.key.toLowerCase();
  if (player.tests[player.article.dataset.mode]?.key(name)) event.preventDefault();
  else if (!player.blind && /^[1-9]$/.test(name)) player.choose(Number(name) - 1);
  else if (name === " ") player.toggle();
  else if (name === "arrowleft") player.seek(player.position - 1);
  else if (name === "arrowright") player.seek(player.position + 1);
  else if (name === "l") player.setLoop(!player.loop);
  else return;
  event.preventDefault(); // or the space bar would also press the button that has the focus
});

// Sorts ascending, descending, then in the original order; "-" comes last, and rows stay in their group.
for (const table of document.querySelectorAll("table")) {
  const groups = [...table.tBodies].map((body) => [body, [...body.rows].filter((row) => row.cells.length > 1)]);
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const next = { null: "ascending", ascending: "descending" }[heading.getAttribute("aria-sort")];
      for (const other of headings) other.removeAttribute("aria-sort");
      if (next) heading.setAttribute("aria-sort", next);
      for (const [body, rows] of groups) body.append(...(next ? sorted(rows, column, next === "ascending") : rows));
    });
  });
}

function sorted(rows, column, up) {
  const text = (row) => row.cells[column].textContent.trim();
  const known = rows.filter((row) => text(row) !== "-");
  const numeric = known.every((row) => !Number.isNaN(parseFloat(text(row))));
  const order = (a, b) => (numeric ? parseFloat(text(a)) - parseFloat(text(b)) : text(a).localeCompare(text(b)));
  known.sort((a, b) => (up ? order(a, b) : order(b, a)));
  return [...known, ...rows.filter((row) => text(row) === "-")];
}
