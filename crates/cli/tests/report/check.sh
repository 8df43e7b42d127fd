#!/bin/sh
# Makes reports with the given program and loads them in Chromium:
#   crates/cli/tests/report/check.sh target/debug/brigade
# It needs Node, npm, and a browser at /usr/bin/chromium or at $BROWSER.
set -eu
program=$(realpath "$1")
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp answers.mjs check.mjs package.json "$work"
cd "$work"
npm install --no-audit --no-fund --silent
for style in plain hostile; do
    node answers.mjs "$style" 3000 "$style"
    "$program" report "$style/answers.csv" >"$style/report.html"
    node check.mjs "$style/report.html" "$style/totals.json"
    # The same without what only the sidecar knows.
    rm "$style/answers.csv.run.json"
    "$program" report "$style/answers.csv" >"$style/report.html"
    node check.mjs "$style/report.html" "$style/totals.json"
done
