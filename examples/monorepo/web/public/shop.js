fetch("/api/items").then((answer) => answer.json()).then((items) => {
  for (const item of items) {
    const line = document.createElement("li");
    line.textContent = `${item.title}: ${item.price}`;
    document.getElementById("items").append(line);
  }
});
