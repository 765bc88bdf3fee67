# Programs that only look as if they leaked, one for each name.
#
# usage: healthy.rb NAME   (ports in CORPUS, as server.py prints them)
require 'json'
require 'net/http'
require 'socket'

AT = JSON.parse(ENV.fetch('CORPUS'))
$stdout.sync = true

def pace(seconds = 0.7)
  puts 'ready'
  (0..).each do |n|
    yield n
    sleep seconds
  end
end

case ARGV[0]
when 'persistent'
  Net::HTTP.start('127.0.0.1', AT['http']) do |http|
    pace(0.3) { |n| http.get("/small/books/#{n}") }
  end
when 'churn'
  pace(0.2) { |n| Net::HTTP.get(URI("http://127.0.0.1:#{AT['http']}/small/books/#{n}")) }
when 'replaced'
  kept = []
  pace(2.5) do |n|
    wire = TCPSocket.new('127.0.0.1', AT['lines'])
    wire.puts "subscribe #{n}"
    wire.gets
    kept << wire
    kept.shift.close if kept.size > 9
  end
end
