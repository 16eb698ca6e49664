// What a reviewer marks, what becomes of it in a file, and which rows a filter shows. Nothing here knows of the page.
"use strict";

// A mark is {action: "keep" | "drop" | "", edits: Map(field → {before, after})}.
function newMark() {
  return { action: "", edits: new Map() };
}

// The text of a field as it was before the page coloured it.
function whole(text) {
  return text.parts.map(([, part]) => part).join("");
}

// Change a mark of `row`: "keep" and "drop" switch on and off, "edit" opens all its texts or forgets their edits.
function changeMark(mark, row, name) {
  if (row.state === "unreadable") return;
  if (name !== "edit") {
    mark.action = mark.action === name ? "" : name;
    // What stays out has no edits.
    if (mark.action === "drop" || (row.state === "out" && mark.action === "")) mark.edits.clear();
  } else if (mark.edits.size) {
    mark.edits.clear();
  } else {
    for (const text of row.texts) {
      const before = whole(text);
      if (text.field !== undefined) mark.edits.set(text.field, { before, after: before });
    }
    // What is out comes back when it is edited.
    mark.action = row.state === "out" && mark.edits.size ? "keep" : mark.action === "drop" ? "" : mark.action;
  }
}

// The decisions of all marks (id → mark), by id; an edit that changes nothing is none.
function decisionsOf(marks) {
  const made = [];
  for (const [id, mark] of [...marks].sort(([a], [b]) => (a < b ? -1 : 1))) {
    for (const [field, { before, after }] of mark.edits) {
      if (before !== after) made.push({ id, action: "edit", field, before, after });
    }
    if (mark.action) made.push({ id, action: mark.action });
  }
  return made;
}

// The file that `luthier data apply` reads; `head` says which dataset was looked at.
function fileOf(head, decisions) {
  return JSON.stringify({ ...head, decisions }, null, 1) + "\n";
}

// All that can be searched in a row, in lower case; joined once, when a search needs it.
function plain(row) {
  row.plain ||= [row.id, row.where, ...row.texts, ...((row.other || {}).texts || []), ...(row.edits || [])]
    .map((item) => (typeof item === "string" ? item : whole(item)))
    .join("\n").toLowerCase();
  return row.plain;
}

// The rows of a group (its number, −1 for all), of a category ("=" and its name, "" for all), with these words.
function matching(rows, group, category, words) {
  const wanted = words.toLowerCase().trim();
  return rows.filter((row) =>
    (group < 0 || row.groups.includes(group)) &&
    (category === "" || `=${row.category}` === category) &&
    (!wanted || plain(row).includes(wanted)));
}

