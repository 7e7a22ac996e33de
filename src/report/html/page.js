'use strict';
// Draws the graphs of the page: a layered layout of the part that is looked at, and of that only what is in sight.

window.addEventListener('error', (event) => {
  document.documentElement.dataset.error = event.message;
});

(() => {
  const data = JSON.parse(document.getElementById('graphs').textContent);
  const tip = document.getElementById('tip');
  const NS = document.querySelector('svg').namespaceURI;
  const HEIGHT = 36; // of a node
  const GAP = 18; // between nodes side by side
  const ROW = 74; // from one row to the next
  const LONG = 24; // rows that an edge of a large part may cross and still be led around nodes
  const LARGE = 900; // nodes of a large part
  const NEAR = 0.45; // scale from which on nodes have labels
  const MANY = 500; // nodes in sight that are drawn one by one

  const make = (name, attributes, parent) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent?.append(element);
    return element;
  };

  /** `float[1,256,768]` as it is shown in a node: `1×256×768`. */
  const short = (type) => {
    const match = /^(\w+)(?:\[(.*)\])?$/.exec(type ?? '');
    if (!match) return type ?? '';
    const dims = match[2] === undefined ? 'scalar' : match[2].replaceAll(',', '×');
    return match[1] === 'float' ? dims : `${match[1]} ${dims}`;
  };

  /** The nodes of a drawing, with what the tables of the data say written out. */
  const unpack = (drawing) => {
    const type = (at) => (at === null ? null : drawing.types[at]);
    const nodes = drawing.nodes.map(([name, op, layer, pass, inputs, outputs], at) => ({
      at,
      name,
      op: drawing.ops[op][0],
      kind: drawing.ops[op][1],
      layer,
      pass: pass === null ? null : drawing.passes[pass],
      inputs: inputs.map(([from, ty]) => ({ from, type: type(ty) })),
      outputs: outputs.map(type),
      readers: [],
    }));
    for (const node of nodes) {
      for (const { from } of node.inputs) if (from !== null) nodes[from].readers.push(node.at);
    }
    return { nodes, layers: drawing.layers };
  };

  /** The parts of a graph that can be looked at: title and the nodes that belong to it. */
  const partsOf = ({ nodes, layers }) => {
    const parts = [];
    const add = (title, inside) => {
      const count = nodes.reduce((n, node) => n + inside(node), 0);
      if (count) parts.push({ title: `${title} (${count})`, inside });
    };
    for (let layer = 0; layer < layers; layer++) {
      const last = layers > 1 && layer === layers - 1 ? ' and what follows' : '';
      add(`layer ${layer}${last}`, (node) => node.layer === layer);
    }
    if (layers) add('before the layers', (node) => node.layer === null);
    add('the whole graph', () => true);
    return parts;
  };

  const width = (node) => Math.max(54, 7.6 * node.op.length + 20, 6.5 * node.label.length + 18);

  /** The nodes of a part with those beside it, and the edges between them, as positions in the list of nodes. */
  const cut = ({ nodes }, { inside }) => {
    const boxes = [];
    const place = new Map();
    const add = (node, outside, label) => {
      const box = { node, outside, op: node.op, label, constants: 0 };
      box.width = width(box);
      box.constants = outside ? 0 : node.inputs.filter(({ from }) => from === null).length;
      boxes.push(box);
      return boxes.length - 1;
    };
    const label = (node) => (node.kind === 'interface' ? node.name : short(node.outputs[0]));
    const edges = [];
    const after = [];
    for (const node of nodes) {
      if (!inside(node)) continue;
      for (const { from } of node.inputs) {
        if (from === null || place.has(from)) continue;
        // Nodes are in topological order, so what is not there yet is outside.
        place.set(from, add(nodes[from], true, short(nodes[from].outputs[0])));
      }
      const at = add(node, false, label(node));
      place.set(node.at, at);
      for (const from of new Set(node.inputs.map(({ from }) => from))) {
        if (from !== null) edges.push([place.get(from), at]);
      }
      const readers = node.readers.filter((reader) => !inside(nodes[reader]));
      if (readers.length) after.push([at, readers]);
    }
    for (const [at, readers] of after) {
      const more = readers.length > 1 ? `and ${readers.length - 1} more` : '';
      edges.push([at, add(nodes[readers[0]], true, more)]);
    }
    return { boxes, edges };
  };

  /** Positions that come as near to the wanted ones as the order and the widths allow (pooling of adjacent violators). */
  const spread = (row, wanted) => {
    const blocks = [];
    let offset = 0;
    row.forEach((item, i) => {
      if (i) offset += (row[i - 1].width + item.width) / 2 + GAP;
      let block = { sum: wanted[i] - offset, count: 1, from: i };
      while (blocks.length && blocks.at(-1).sum / blocks.at(-1).count > block.sum / block.count) {
        const last = blocks.pop();
        block = { sum: last.sum + block.sum, count: last.count + block.count, from: last.from };
      }
      blocks.push(block);
    });
    offset = 0;
    let block = 0;
    row.forEach((item, i) => {
      if (i) offset += (row[i - 1].width + item.width) / 2 + GAP;
      if (block + 1 < blocks.length && blocks[block + 1].from === i) block++;
      item.x = blocks[block].sum / blocks[block].count + offset;
    });
  };

  /** A layered layout: rows by the longest way from the top, order in rows by the mean of neighbours. */
  const layout = ({ boxes, edges }) => {
    for (const box of boxes) Object.assign(box, { row: 0, up: [], down: [] });
    for (const [from, to] of edges) boxes[to].row = Math.max(boxes[to].row, boxes[from].row + 1);
    // Edges are in the order of their ends, so one walk is enough; what begins a chain moves down to its first reader.
    const reader = new Array(boxes.length).fill(Infinity);
    const hasInput = new Array(boxes.length).fill(false);
    for (const [from, to] of edges) {
      reader[from] = Math.min(reader[from], boxes[to].row);
      hasInput[to] = true;
    }
    boxes.forEach((box, i) => {
      if (!hasInput[i] && reader[i] !== Infinity) box.row = reader[i] - 1;
    });

    const rows = [];
    const enter = (item) => {
      (rows[item.row] ??= []).push(item);
      return item;
    };
    boxes.forEach(enter);
    const lines = edges.map(([from, to]) => {
      const [a, b] = [boxes[from], boxes[to]];
      const line = [a];
      if (boxes.length < LARGE || b.row - a.row <= LONG) {
        for (let row = a.row + 1; row < b.row; row++) {
          line.push(enter({ row, width: 8, bend: true, up: [], down: [] }));
        }
        line.push(b);
        for (let i = 1; i < line.length; i++) {
          line[i - 1].down.push(line[i]);
          line[i].up.push(line[i - 1]);
        }
      } else {
        line.push(b);
      }
      return line;
    });
    for (let i = 0; i < rows.length; i++) rows[i] ??= [];

    const mean = (items, of, otherwise) =>
      items.length ? items.reduce((sum, item) => sum + of(item), 0) / items.length : otherwise;
    const number = () => rows.forEach((row) => row.forEach((item, i) => (item.order = i)));
    number();
    for (let sweep = 0; sweep < 8; sweep++) {
      const down = sweep % 2 === 0;
      for (const row of down ? rows : rows.toReversed()) {
        for (const item of row) item.key = mean(down ? item.up : item.down, (i) => i.order, item.order);
        row.sort((a, b) => a.key - b.key || a.order - b.order);
        row.forEach((item, i) => (item.order = i));
      }
    }
    rows.forEach((row) => spread(row, row.map(() => 0)));
    for (let sweep = 0; sweep < 10; sweep++) {
      const down = sweep % 2 === 0;
      for (const row of down ? rows : rows.toReversed()) {
        spread(row, row.map((item) => mean(down ? item.up : item.down, (i) => i.x, item.x)));
      }
    }
    for (const row of rows) for (const item of row) item.y = item.row * ROW;
    const xs = boxes.flatMap(({ x, width }) => [x - width / 2, x + width / 2]);
    const bounds = xs.reduce(
      (b, x) => ({ left: Math.min(b.left, x), right: Math.max(b.right, x) }),
      { left: Infinity, right: -Infinity },
    );
    const nodeRows = rows.map((row) => row.filter((item) => !item.bend));
    return { rows: nodeRows, lines, ...bounds, bottom: rows.length * ROW - (ROW - HEIGHT) };
  };

  /** An edge through its bends. */
  const way = (line) => {
    let path = `M${line[0].x.toFixed(1)} ${line[0].y + HEIGHT}`;
    for (let i = 1; i < line.length; i++) {
      const [a, b] = [line[i - 1], line[i]];
      const top = i === 1 ? a.y + HEIGHT : a.y + HEIGHT / 2;
      const end = i === line.length - 1 ? b.y : b.y + HEIGHT / 2;
      const bend = Math.min((end - top) / 2, ROW);
      path += `C${a.x.toFixed(1)} ${top + bend} ${b.x.toFixed(1)} ${end - bend} ${b.x.toFixed(1)} ${end}`;
    }
    return path;
  };

  /** A graph on the page. */
  const show = (figure, drawing) => {
    const graph = unpack(drawing);
    const parts = partsOf(graph);
    const svg = figure.querySelector('svg');
    const select = figure.querySelector('select');
    const world = make('g', {}, svg);
    const view = { x: 0, y: 0, scale: 1 };
    let part = null; // laid out
    let drawn = null; // what is in the document: limits and whether nodes have labels
    let hot = null; // the node under the pointer

    const size = () => ({ width: svg.clientWidth || 600, height: svg.clientHeight || 600 });
    const inSight = () => {
      const { width, height } = size();
      const { x, y, scale } = view;
      return { left: -x / scale, right: (width - x) / scale, top: -y / scale, bottom: (height - y) / scale };
    };
    const between = (top, bottom) => {
      const first = Math.max(0, Math.floor((top - HEIGHT) / ROW));
      const last = Math.min(part.rows.length - 1, Math.ceil(bottom / ROW));
      return first > last ? [] : part.rows.slice(first, last + 1);
    };

    const draw = () => {
      const sight = inSight();
      const spare = { x: (sight.right - sight.left) / 2, y: (sight.bottom - sight.top) / 2 };
      const limits = {
        left: sight.left - spare.x,
        right: sight.right + spare.x,
        top: sight.top - spare.y,
        bottom: sight.bottom + spare.y,
      };
      const touches = (left, right) => right >= limits.left && left <= limits.right;
      const boxes = between(limits.top, limits.bottom)
        .flat()
        .filter(({ x, width }) => touches(x - width / 2, x + width / 2));
      const near = view.scale >= NEAR && boxes.length <= MANY;
      drawn = { ...limits, near };
      world.replaceChildren();
      const lines = part.lines.filter((line) => {
        const [a, b] = [line[0], line.at(-1)];
        return b.y >= limits.top && a.y <= limits.bottom && touches(Math.min(a.x, b.x) - 200, Math.max(a.x, b.x) + 200);
      });
      make('path', { class: 'edge', d: lines.map(way).join('') }, world);
      if (near) {
        boxes.forEach(drawNear);
      } else {
        // One path for each kind, or thousands of elements would have to be moved.
        const kinds = new Map();
        for (const { node, x, y, width } of boxes) {
          const box = `M${(x - width / 2).toFixed(1)} ${y}h${width.toFixed(1)}v${HEIGHT}h${-width.toFixed(1)}z`;
          kinds.set(node.kind, (kinds.get(node.kind) ?? '') + box);
        }
        for (const [kind, d] of kinds) make('path', { class: `far is-${kind}`, d }, world);
      }
    };
    const drawNear = (box) => {
      const { node, x, y, width, outside, op, label, constants } = box;
      const left = x - width / 2;
      const kind = `is-${node.kind}${outside ? ' outside' : ''}${box === hot ? ' hot' : ''}`;
      make('rect', { class: `box ${kind}`, x: left, y, width, height: HEIGHT, rx: 6 }, world);
      for (let i = 0; i < Math.min(constants, 4); i++) {
        make('circle', { class: 'constant', cx: left + 8 + 6 * i, cy: y + 1, r: 2.2 }, world);
      }
      make('text', { x, y: y + (label ? 15 : 22) }, world).textContent = op;
      if (label) make('text', { class: 'type', x, y: y + 29 }, world).textContent = label;
    };
    const move = () => {
      const sight = inSight();
      const inside =
        drawn &&
        sight.left >= drawn.left &&
        sight.right <= drawn.right &&
        sight.top >= drawn.top &&
        sight.bottom <= drawn.bottom;
      // Far away more is drawn than near, so what was drawn near is too little and what was drawn far has no labels.
      if (!inside || drawn.near !== (view.scale >= NEAR)) draw();
      world.setAttribute('transform', `translate(${view.x} ${view.y}) scale(${view.scale})`);
    };
    /** Looks at the part from this scale on: at the middle of its first row, or of all of it where that is in sight. */
    const look = (scale) => {
      const { width, height } = size();
      const top = part.rows[0].reduce((sum, { x }) => sum + x, 0) / Math.max(part.rows[0].length, 1);
      const all = (part.right - part.left) * scale <= width;
      view.scale = scale;
      view.x = width / 2 - (all ? (part.left + part.right) / 2 : top) * scale;
      view.y = Math.max(20 * scale, (height - part.bottom * scale) / 2);
      drawn = null;
      move();
    };
    const whole = () => {
      const { width, height } = size();
      return Math.min(1.1, width / (part.right - part.left + 40), height / (part.bottom + 40));
    };
    const fit = () => look(whole());
    // A whole model is far taller than it is wide: begin where its nodes can be read.
    const begin = () => look(Math.max(whole(), Math.min(0.8, size().width / (part.right - part.left + 40)), 0.55));
    const zoom = (factor, x, y) => {
      const scale = Math.min(4, Math.max(0.02, view.scale * factor));
      view.x = x - ((x - view.x) / view.scale) * scale;
      view.y = y - ((y - view.y) / view.scale) * scale;
      view.scale = scale;
      move();
    };
    const open = (index) => {
      part = layout(cut(graph, parts[index]));
      hot = null;
      begin();
    };

    const under = (event) => {
      const frame = svg.getBoundingClientRect();
      const x = (event.clientX - frame.left - view.x) / view.scale;
      const y = (event.clientY - frame.top - view.y) / view.scale;
      const row = part.rows[Math.floor(y / ROW)] ?? [];
      if (y - Math.floor(y / ROW) * ROW > HEIGHT) return null;
      return row.find((box) => Math.abs(box.x - x) <= box.width / 2) ?? null;
    };
    const tell = (box, event) => {
      tip.hidden = !box;
      if (!box) return;
      const { node } = box;
      const source = ({ from, type }) =>
        `${type ?? '?'} from ${from === null ? 'a constant' : graph.nodes[from].op}`;
      const line = (text, tag = 'span') => {
        const element = document.createElement(tag);
        element.textContent = text;
        return element;
      };
      const where = node.layer === null ? '' : `, layer ${node.layer}`;
      tip.replaceChildren(
        line(`${node.op}${where}`, 'b'),
        line(node.name),
        ...node.inputs.map((input) => line(`in: ${source(input)}`)),
        ...node.outputs.map((type) => line(`out: ${type ?? '?'}`)),
      );
      if (node.pass) tip.append(line(`made by ${node.pass}`));
      const { width, height } = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(6, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
      const below = event.clientY + 18;
      tip.style.top = `${below + height < innerHeight ? below : Math.max(6, event.clientY - height - 12)}px`;
    };
    const point = (event) => {
      const box = under(event);
      tell(box, event);
      if (box !== hot) {
        hot = box;
        if (drawn?.near) draw();
      }
    };

    const fingers = new Map();
    const middle = () => {
      const [a, b = a] = [...fingers.values()];
      return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
    };
    const at = (event) => {
      const frame = svg.getBoundingClientRect();
      return { x: event.clientX - frame.left, y: event.clientY - frame.top };
    };
    svg.addEventListener('pointerdown', (event) => {
      fingers.set(event.pointerId, at(event));
      svg.setPointerCapture(event.pointerId);
      if (event.pointerType !== 'mouse') point(event);
    });
    svg.addEventListener('pointermove', (event) => {
      if (!fingers.has(event.pointerId)) {
        point(event);
        return;
      }
      tip.hidden = true;
      const before = middle();
      fingers.set(event.pointerId, at(event));
      const now = middle();
      view.x += now.x - before.x;
      view.y += now.y - before.y;
      if (before.apart && now.apart) zoom(now.apart / before.apart, now.x, now.y);
      else move();
    });
    for (const end of ['pointerup', 'pointercancel']) {
      svg.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    svg.addEventListener('pointerleave', () => (tip.hidden = true));
    svg.addEventListener(
      'wheel',
      (event) => {
        // A page that is being scrolled past must not stop at a graph.
        if (document.activeElement !== svg && !event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        const { x, y } = at(event);
        zoom(Math.exp(-Math.max(-100, Math.min(100, event.deltaY)) / 300), x, y);
      },
      { passive: false },
    );
    const buttons = { in: () => zoomMiddle(1.4), out: () => zoomMiddle(1 / 1.4), fit };
    const zoomMiddle = (factor) => zoom(factor, size().width / 2, size().height / 2);
    for (const button of figure.querySelectorAll('button')) {
      button.addEventListener('click', () => buttons[button.dataset.zoom]());
    }
    svg.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
      if (step) {
        view.x += step[0];
        view.y += step[1];
        move();
      } else if (event.key === '+' || event.key === '=') buttons.in();
      else if (event.key === '-') buttons.out();
      else if (event.key === '0') fit();
      else return;
      event.preventDefault();
    });

    parts.forEach(({ title }, index) => select.append(new Option(title, index)));
    // A layer in the middle stands for the others: the last one is narrowed to what is read.
    const first = graph.layers ? Math.floor((graph.layers - 1) / 2) : parts.length - 1;
    select.value = first;
    select.addEventListener('change', () => open(Number(select.value)));
    open(first);
    new ResizeObserver(() => {
      drawn = null;
      move();
    }).observe(svg);
    return { parts: parts.length, open };
  };

  const figures = [...document.querySelectorAll('.graph')];
  const shown = figures.map((figure) => show(figure, data[figure.dataset.side]));
  // Who loads the page without looking at it, as a test does, asks for every part: `#draw-all`.
  if (location.hash === '#draw-all') {
    for (const { parts, open } of shown) for (let part = 0; part < parts; part++) open(part);
  }
  document.documentElement.dataset.drawn = figures.map((f) => f.querySelectorAll('rect, .far').length).join(' ');
})();
