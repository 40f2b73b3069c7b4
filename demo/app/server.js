const express = require("express");
const bodyParser = require("body-parser");

const app = express();
let userGoal = "Learn Docker!";

app.use(bodyParser.urlencoded({ extended: false }));
app.use(express.static("public"));

app.get("/", (req, res) => {
  res.send(`
    <html>
      <head><link rel="stylesheet" href="styles.css"></head>
      <body>
        <section><h2>My Course Goal</h2><h3>${userGoal}</h3></section>
        <form action="/store-goal" method="POST">
          <label>Course Goal</label><input type="text" name="goal"><button>Set Course Goal</button>
        </form>
      </body>
    </html>
  `);
});

app.post("/store-goal", (req, res) => {
  userGoal = req.body.goal;
  res.redirect("/");
});

app.listen(80);
