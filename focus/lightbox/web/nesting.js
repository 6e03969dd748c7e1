// Nested boxes: how a chain of [x1, y1, x2, y2] in whole pixels of the original, smallest first, stays nested while a person draws.

export const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);
const holds = ([x1, y1, x2, y2], [x, y]) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
const limit = (value, low, high) => Math.max(low, Math.min(high, value));
const shared = (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
const both = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];

// The box around a level (the image for the outermost one), and the box in it (null for B1)
const outerOf = (chain, level, size) => chain[level + 1] ?? [0, 0, ...size];
const innerOf = (chain, level) => chain[level - 1] ?? null;

// Where a drag from `start` to `end` puts a new box: inside the smallest box that holds the start, around all others
export function placed(chain, start, end, size) {
  const around = chain.findIndex(box => holds(box, start));
  const level = around < 0 ? chain.length : around;
  const drawn = [Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])].map(Math.round);
  const inner = innerOf(chain, level);
  return {level, box: shared(inner ? both(drawn, inner) : drawn, around < 0 ? [0, 0, ...size] : chain[around])};
}

// A box of the chain with the edges at `corner` ('left', 'right', '', with 'top', 'bottom' or '') moved to a point
export function resized(chain, level, [horizontal, vertical], [x, y], size) {
  const box = [...chain[level]], outer = outerOf(chain, level, size), inner = innerOf(chain, level);
  const moves = {left: [0, x], right: [2, x], top: [1, y], bottom: [3, y]};
  for (const name of [horizontal, vertical].filter(Boolean)) {
    const [edge, to] = moves[name], axis = edge % 2;
    const [low, high] = edge < 2 ? [outer[axis], inner ? inner[axis] : box[axis + 2] - 1] : [inner ? inner[axis + 2] : box[axis] + 1, outer[axis + 2]];
    box[edge] = Math.round(limit(to, low, high));
  }
  return box;
}

// A box of the chain moved by whole pixels, as far as its outer box allows and without leaving its inner one
export function moved(chain, level, [dx, dy], size) {
  const box = chain[level], outer = outerOf(chain, level, size), inner = innerOf(chain, level) ?? outer;
  const along = (axis, by) => {
    const within = [outer[axis] - box[axis], outer[axis + 2] - box[axis + 2]];
    const around = inner === outer ? within : [inner[axis + 2] - box[axis + 2], inner[axis] - box[axis]];
    return Math.round(limit(by, Math.max(within[0], around[0]), Math.min(within[1], around[1])));
  };
  const [x, y] = [along(0, dx), along(1, dy)];
  return [box[0] + x, box[1] + y, box[2] + x, box[3] + y];
}

// The next level outward: half as wide and high again as the outermost box, inside the image. null where there is no room
export function grown(chain, size) {
  const [x1, y1, x2, y2] = chain.at(-1), more = [Math.max(2, (x2 - x1) / 4), Math.max(2, (y2 - y1) / 4)];
  const box = shared([x1 - more[0], y1 - more[1], x2 + more[0], y2 + more[1]].map(Math.round), [0, 0, ...size]);
  return area(box) > area(chain.at(-1)) ? box : null;
}

// The chain with a box at a level, new or instead of the one there; null if the box is not between its neighbours
export function withBox(chain, level, box, instead) {
  const changed = [...chain.slice(0, level), box, ...chain.slice(instead ? level + 1 : level)];
  const sound = area(box) > 0 && (level === 0 || area(changed[level - 1]) < area(box)) && (level + 1 === changed.length || area(box) < area(changed[level + 1]));
  return sound ? changed : null;
}
