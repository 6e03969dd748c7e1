"use strict";
// The page is whole without this script. It reads curves out under the pointer and filters trajectories.

// -------------------------------------------------------------------------------------------- curves

for (const figure of document.querySelectorAll("figure[data-points]")) {
  const points = JSON.parse(figure.dataset.points);
  const [left, width, first, last] = JSON.parse(figure.dataset.plot);
  const shown = figure.querySelector("output"), ends = shown.textContent;
  const chart = figure.querySelector("svg");
  const cursor = document.createElement("i");
  cursor.className = "cursor";
  figure.append(cursor);

  // The measured update that is nearest to the pointer
  const nearest = (event) => {
    const box = chart.getBoundingClientRect();
    const at = first + ((event.clientX - box.left) / box.width - left) / width * (last - first);
    return points.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best);
  };
  const show = (event) => {
    const [update, value] = nearest(event);
    const share = last > first ? (update - first) / (last - first) : 0.5;
    shown.textContent = `update ${update}: ${value}`;
    cursor.style.left = `${chart.offsetLeft + (left + width * share) * chart.clientWidth}px`;
    cursor.hidden = false;
  };
  const hide = () => {
    shown.textContent = ends;
    cursor.hidden = true;
  };
  hide();
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", hide);
}

// -------------------------------------------------------------------------------------- trajectories

const cards = [...document.querySelectorAll("article[data-tags]")];
const tagsOf = (card) => card.dataset.tags.split("|");
// Chips of one row exclude each other; a row is offered if both of its chips choose something
const rows = [
  ["right", "wrong"],
  ["with a crop", "without a crop"],
  ["evidence in its crop", "evidence missed"],
].filter((row) => row.every((tag) => cards.some((card) => tagsOf(card).includes(tag))));
const chosen = new Set();

const filter = (status, chips) => {
  let count = 0;
  for (const card of cards) {
    const tags = tagsOf(card);
    card.hidden = ![...chosen].every((tag) => tags.includes(tag));
    count += !card.hidden;
  }
  for (const chip of chips) chip.setAttribute("aria-pressed", chosen.has(chip.textContent));
  status.textContent = `${count} of ${cards.length} trajectories`;
};

if (rows.length) {
  const bar = document.createElement("div"), status = document.createElement("output");
  bar.className = "chips";
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "filter of trajectories");
  const chips = rows.flatMap((row) => row.map((tag) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.textContent = tag;
    chip.addEventListener("click", () => {
      const was = chosen.has(tag);
      for (const other of row) chosen.delete(other);
      if (!was) chosen.add(tag);
      filter(status, chips);
    });
    return chip;
  }));
  bar.append(...chips, status);
  cards[0].closest("section").before(bar);
  filter(status, chips);
}
