// Loads a report in Chromium, at two widths and in two colour schemes, and fails on anything that
// a page without script and without network must not do:
//   node check.mjs PAGE TOTALS.json [FOLDER FOR SCREENSHOTS]
// BROWSER is the path of the browser, /usr/bin/chromium without it.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [page_path, totals_path, shots] = process.argv.slice(2);
if (!page_path || !totals_path) {
  console.error("usage: node check.mjs PAGE TOTALS.json [FOLDER FOR SCREENSHOTS]");
  process.exit(2);
}
const address = pathToFileURL(resolve(page_path)).href;
const expected = JSON.parse(readFileSync(totals_path, "utf8"));
const problems = [];

const browser = await chromium.launch({
  executablePath: process.env.BROWSER ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
  ],
});
try {
  for (const width of [360, 1200]) {
    for (const colorScheme of ["light", "dark"]) {
      await check(width, colorScheme);
    }
  }
} finally {
  await browser.close();
}
for (const problem of problems) console.error(problem);
console.log(`${page_path}: ${problems.length === 0 ? "passed" : `${problems.length} problems`}`);
process.exitCode = problems.length === 0 ? 0 : 1;

async function check(width, colorScheme) {
  const name = `${width} px, ${colorScheme}`;
  const fail = (text) => problems.push(`${name}: ${text}`);
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
  page.on("console", (message) => fail(`console: ${message.text()}`));
  page.on("pageerror", (error) => fail(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    fail(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("popup", () => fail("a window was opened"));
  page.on("request", (request) => {
    if (request.url() !== address) fail(`request: ${request.url().slice(0, 200)}`);
  });
  await page.goto(address, { waitUntil: "load" });
  if (shots) await page.screenshot({ path: join(shots, `${width}-${colorScheme}.png`), fullPage: true });
  await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
  // What is planted may take its time.
  await page.waitForTimeout(300);
  if (shots) await page.screenshot({ path: join(shots, `${width}-${colorScheme}-open.png`), fullPage: true });
  for (const text of await page.evaluate(inspect, expected)) fail(text);
  if (page.url() !== address) fail(`the page went to ${page.url()}`);
  await page.close();
}

// Runs in the page.
function inspect(expected) {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) {
    found.push(`the page is ${root.scrollWidth} px wide in a window of ${root.clientWidth} px`);
  }
  for (const [name, value] of Object.entries(expected)) {
    const data = document.getElementById(`total-${name}`);
    if (data?.value !== String(value)) found.push(`${name}: ${data?.value} instead of ${value}`);
    const shown = data?.textContent.replaceAll(",", "");
    if (shown !== String(value)) found.push(`${name}: ${shown} is shown instead of ${value}`);
  }
  for (const total of document.querySelectorAll(".totals > div")) {
    if (total.scrollWidth > total.clientWidth + 1) found.push(`${total.textContent} is cut off`);
  }
  for (const tag of ["script", "img", "iframe", "object", "embed", "link", "form", "base"]) {
    if (document.querySelector(tag)) found.push(`there is an element ${tag}`);
  }
  for (const element of document.querySelectorAll("*")) {
    for (const { name, value } of element.attributes) {
      if (name === "style" || name.startsWith("on")) found.push(`attribute ${name} of ${element.tagName}`);
      if (name === "href" && !value.startsWith("#")) found.push(`a link to ${value}`);
    }
  }
  if (document.querySelectorAll("style").length !== 1) found.push("there is not one style");
  if (getComputedStyle(document.body).margin !== "0px") found.push("the style does not apply");
  const figures = document.querySelectorAll("figure");
  if (expected.rows > 0 && figures.length < 4) found.push(`${figures.length} figures`);
  for (const figure of figures) found.push(...inspectFigure(figure));
  found.push(...lowContrast());
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) found.push("an id is there twice");
  for (const link of document.querySelectorAll("a")) {
    if (!document.getElementById(link.hash.slice(1))) found.push(`${link.hash} leads nowhere`);
  }
  return found;

  function inspectFigure(figure) {
    const found = [];
    const name = document.getElementById(figure.getAttribute("aria-labelledby"))?.textContent;
    if (!name) found.push("a figure has no name");
    if (!figure.querySelector("figcaption p")?.textContent) found.push(`${name}: no summary`);
    if (!figure.querySelector("details table tbody tr")) found.push(`${name}: no table`);
    const marks = [...figure.querySelectorAll("path.marks, .bar rect")];
    const count = marks.map((mark) => mark.getAttribute("d")?.split("M").length - 1 || 1);
    const sum = count.reduce((sum, number) => sum + number, 0);
    if (sum === 0) found.push(`${name}: no marks`);
    if (sum > 2000) found.push(`${name}: ${sum} marks`);
    for (const mark of marks) {
      const box = mark.getBoundingClientRect();
      if (box.width < 0.5 || box.height < 0.5) found.push(`${name}: marks of no size`);
    }
    return found.concat(overlappingLabels(figure, name));
  }

  function overlappingLabels(figure, name) {
    const found = [];
    for (const axis of figure.querySelectorAll("svg.x, svg.y")) {
      const boxes = [...axis.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
      boxes.forEach((a, at) => {
        if (a.right > root.clientWidth || a.left < 0) found.push(`${name}: a label is cut off`);
        for (const b of boxes.slice(at + 1)) {
          const isApart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top + 3 || b.bottom <= a.top + 3;
          if (!isApart) found.push(`${name}: two labels overlap`);
        }
      });
    }
    return found;
  }

  // WCAG 2, 1.4.3: text has a contrast of 4.5 with the paper.
  function lowContrast() {
    const channels = (color) => color.match(/[\d.]+/g).slice(0, 3).map(Number);
    const luminance = (color) => {
      const [r, g, b] = channels(color).map((c) => {
        const share = c / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = luminance(getComputedStyle(document.body).backgroundColor);
    const found = new Set();
    for (const element of document.querySelectorAll("p, dd, dt, th, td, a, summary, text, h1, small, li")) {
      const style = getComputedStyle(element);
      const color = element.tagName === "text" ? style.fill : style.color;
      const ink = luminance(color);
      const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      if (contrast < 4.5) found.add(`contrast of ${contrast.toFixed(1)}: ${color}`);
    }
    return [...found];
  }
}
